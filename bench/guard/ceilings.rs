//! What each step may take: recorded counts, and a tenth more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Context;

/// Counts differ a little from run to run; what is found must be more than that.
const TOLERANCE_PERCENT: u64 = 10;
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guard/ceilings.yaml");

/// How many instructions one of a step took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub name: &'static str,
    pub instructions: u64,
}

/// Recorded counts by step.
#[derive(Debug)]
pub(crate) struct Ceilings(BTreeMap<String, u64>);

impl Ceilings {
    /// Reads what was recorded.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let text = fs::read_to_string(FILE).with_context(|| format!("{FILE} cannot be read"))?;
        Ok(Self(serde_saphyr::from_str(&text).with_context(|| format!("{FILE} is malformed"))?))
    }

    /// What takes more than it may, in words. Tells of counts that have shrunk, too: their ceiling is slack.
    pub(crate) fn compare(&self, counts: &[Count]) -> Vec<String> {
        let mut exceeded = Vec::new();
        for Count { name, instructions } in counts {
            match self.0.get(*name) {
                None => exceeded.push(format!("`{name}` is not recorded; it takes {instructions} instructions")),
                Some(recorded) if *instructions * 100 > recorded * (100 + TOLERANCE_PERCENT) => exceeded.push(format!(
                    "`{name}` takes {instructions} instructions, more than {TOLERANCE_PERCENT} % above the recorded {recorded}"
                )),
                Some(recorded) if *instructions * (100 + TOLERANCE_PERCENT) < recorded * 100 => {
                    println!("`{name}` has become cheaper than the recorded {recorded}: `make guard-record` keeps it so");
                }
                Some(_) => {}
            }
        }
        exceeded
    }
}

/// Writes these counts as what each step may take.
pub(crate) fn record(counts: &[Count]) -> anyhow::Result<()> {
    let mut text = format!(
        "# Instructions that one of each step takes, as `make guard-record` counted them with {}.\n\
         # .ci/guard fails at {TOLERANCE_PERCENT} % more.\n",
        compiler()?
    );
    for Count { name, instructions } in counts {
        writeln!(text, "\"{name}\": {instructions}")?;
    }
    fs::write(FILE, text).with_context(|| format!("{FILE} cannot be written"))
}

/// The compiler and its target: others make other instructions.
fn compiler() -> anyhow::Result<String> {
    let told = Command::new("rustc").arg("--version").output().context("rustc does not run")?;
    let version = String::from_utf8(told.stdout).context("a version in UTF-8")?;
    let version = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Ok(format!("{version} for {}", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(instructions: u64) -> Vec<String> {
        let ceilings = Ceilings(BTreeMap::from([("a step".to_owned(), 1000)]));
        ceilings.compare(&[Count { name: "a step", instructions }])
    }

    #[test]
    fn a_tenth_more_than_recorded_is_borne_and_no_more() {
        assert_eq!(compared(1100), Vec::<String>::new());
        assert_eq!(compared(500), Vec::<String>::new());
        let told = compared(1101).join("\n");
        assert!(told.contains("a step") && told.contains("1101") && told.contains("1000"), "{told}");
    }

    #[test]
    fn a_step_without_a_ceiling_is_told() {
        let told = Ceilings(BTreeMap::new()).compare(&[Count { name: "a step", instructions: 1 }]);
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn every_recorded_ceiling_belongs_to_a_step() {
        let recorded = Ceilings::load().expect("the file is well-formed");
        let names = crate::STEPS.iter().map(|step| step.name).chain(crate::proxied::all().map(|traffic| traffic.name));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        assert_eq!(recorded.0.keys().map(String::as_str).collect::<Vec<_>>(), names);
    }
}
