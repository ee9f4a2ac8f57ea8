//! The demonstration, in a pipe.

use tempfile::TempDir;

use crate::support::{command, timed};

#[tokio::test]
async fn the_demo_ends_by_itself_with_a_table_and_the_exit_code_0() {
    let _timed = timed().await;
    let finished = tokio::task::spawn_blocking(|| {
        let folder = TempDir::new().expect("a folder");
        command(&folder, &["demo", "--seconds", "4"])
    })
    .await
    .expect("no panic");
    let out = &finished.stdout;
    assert_eq!(finished.status.code(), Some(0), "{out}\n{}", finished.stderr);
    assert!(!out.contains('\x1b'), "a pipe gets plain lines:\n{out}");
    assert!(out.lines().any(|line| line.starts_with("direct   1 s")), "progress is told:\n{out}");
    assert!(out.lines().any(|line| line.starts_with("paced    1 s")), "progress is told:\n{out}");
    let row = |name: &str| -> Vec<f64> {
        let line = out.lines().find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no row `{name}`:\n{out}"));
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let (clients, upstream) = (row("429s seen by clients"), row("429s at the upstream"));
    assert!(clients[0] > 50.0 && upstream[0] > 50.0, "the direct run is full of 429s:\n{out}");
    assert_eq!((clients[1], upstream[1]), (0.0, 0.0), "the paced run has none:\n{out}");
    assert!(row("share of the quota used")[1] >= 97.0, "{out}");
    let fairness = row("fairness");
    // Fifty answers that 32 clients share as evenly as whole numbers allow make 0.908.
    assert!(fairness[0] < 0.5 && fairness[1] >= 0.85, "{out}");
    for name in ["requests", "answered", "wait p50", "wait p99"] {
        assert!(!row(name).is_empty());
    }
    let last = out.lines().rfind(|line| !line.is_empty()).expect("there is output");
    assert!(last.starts_with("Direct, ") && last.ends_with('.'), "it ends in one sentence:\n{out}");
}
