//! Reads `telemetry`: where traces go.

use super::env::Env;
use super::fault::Report;
use super::field::{Field, Fields};
use super::model::{HostHeader, Otlp, Upstream};
use super::url;

/// The variable in which the whole field has put the collector. It holds where the file says nothing.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The variable that names the service, where the file does not.
const SERVICE: &str = "OTEL_SERVICE_NAME";

/// Reads `telemetry`; `None` where no traces are told.
pub(super) fn telemetry(file: &mut Fields<'_>, env: Env<'_>, report: &mut Report) -> Option<Otlp> {
    let at = file.at().clone();
    let given = |name| env(name).filter(|value| !value.trim().is_empty());
    let mut section = file.take("telemetry").and_then(|field| field.fields(report));
    let mut take = |name| section.as_mut().and_then(|section| section.take(name));
    let (collector, sample, service) = (take("otlp"), take("sample"), take("service_name"));
    let sample = sample.map_or(Some(1.0), |field| share(&field, report));
    let service = service.map(|field| field.text(report).map(str::to_owned));
    let service = service.unwrap_or_else(|| Some(given(SERVICE).unwrap_or_else(|| "cooldown-proxy".to_owned())));
    let collector = match collector {
        Some(field) if field.is("off") => None,
        Some(field) => {
            let read = field.text(report).map(url::parse);
            read.and_then(|read| read.map_err(|why| field.fault(report, why, HINT)).ok())
        }
        None => given(ENDPOINT).and_then(|text| {
            let faulty = |why| report.fault(&at, format!("{ENDPOINT}: {why}"), HINT);
            url::parse(&text).map_err(faulty).ok()
        }),
    };
    if let Some(section) = section {
        section.close(report);
    }
    Some(Otlp { collector: Upstream::at(collector?, HostHeader::Upstream), sample: sample?, service: service? })
}

const HINT: &str = "write a URL such as `http://localhost:4318`, or `off`";

/// A share of all: from 0 to 1.
fn share(field: &Field<'_>, report: &mut Report) -> Option<f64> {
    let share = field.text(report)?.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    if share.is_none() {
        field.fault(report, "a number from 0 to 1 is expected", "write `sample: 0.1` for one request in ten");
    }
    share
}
