//! Times as people read them.

use std::fmt;
use std::time::Duration;

/// A time as people read it: `12 ms`, `1.35 s`, `12.5 min`, `7.1 h`.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let text = if seconds < 1.0 {
            format!("{:.0} ms", seconds * 1e3)
        } else if seconds < 100.0 {
            format!("{seconds:.2} s")
        } else if seconds < 6000.0 {
            format!("{:.1} min", seconds / 60.0)
        } else {
            format!("{:.1} h", seconds / 3600.0)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [
            (Duration::from_micros(12_400), "12 ms"),
            (Duration::from_millis(1_350), "1.35 s"),
            (Duration::from_secs(750), "12.5 min"),
            (Duration::from_secs(25_560), "7.1 h"),
        ];
        for (time, text) in shown {
            assert_eq!(Seconds(time).to_string(), text);
        }
    }
}
