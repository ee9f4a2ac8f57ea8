//! Reads `telemetry`: where traces go.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderName, HeaderValue};

use super::env::Env;
use super::fault::Report;
use super::field::{Field, Fields};
use super::model::{HostHeader, Otlp, Upstream};
use super::secret::Secret;
use super::url;

/// The variable in which the whole field has put the collector. It holds where the file says nothing.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The variable with what the collector wants to hear beside traces, as `name=value,name=value` in their %-form.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// The variable that names the service, where the file does not.
const SERVICE: &str = "OTEL_SERVICE_NAME";

/// What is said to the collector in any case.
const SAID: [HeaderName; 6] = [HOST, CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, USER_AGENT];

/// A field for the collector.
type Header = (HeaderName, Secret);

/// Reads `telemetry`; `None` where no traces are told.
pub(super) fn telemetry(file: &mut Fields<'_>, env: Env<'_>, report: &mut Report) -> Option<Otlp> {
    let at = file.at().clone();
    let given = |name| env(name).filter(|value| !value.trim().is_empty());
    let mut section = file.take("telemetry").and_then(|field| field.fields(report));
    let mut take = |name| section.as_mut().and_then(|section| section.take(name));
    let (collector, headers, sample, service) = (take("otlp"), take("headers"), take("sample"), take("service_name"));
    let sample = sample.map_or(Some(1.0), |field| share(&field, report));
    let service = service.map(|field| field.text(report).map(str::to_owned));
    let service = service.unwrap_or_else(|| Some(given(SERVICE).unwrap_or_else(|| "cooldown-proxy".to_owned())));
    let written = headers.map(|field| self::headers(&field, report));
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
    let collector = Upstream::at(collector?, HostHeader::Upstream);
    let headers = written.unwrap_or_else(|| {
        let read = given(HEADERS).map(|text| headers_of_environment(&text));
        let faulty = |()| report.fault(&at, format!("{HEADERS}: this is no list of header fields"), HEADERS_HINT);
        read.map_or(Some(Vec::new()), |read| read.ok_or(()).map_err(faulty).ok())
    });
    Some(Otlp { collector, headers: headers?, sample: sample?, service: service? })
}

const HINT: &str = "write a URL such as `http://localhost:4318`, or `off`";
const HEADERS_HINT: &str = "write `name=value,name=value`, other characters in their %-form";

/// What is written down for the collector; `None` if something is wrong with it.
fn headers(field: &Field<'_>, report: &mut Report) -> Option<Vec<Header>> {
    let before = report.len();
    let mut headers = Vec::new();
    for entry in field.named(report) {
        match name(entry.name) {
            Some(name) => match entry.field.text(report).map(value) {
                Some(Some(value)) => headers.push((name, value)),
                Some(None) => {
                    let hint = "use visible ASCII characters; blanks may stand between them";
                    entry.field.fault(report, "this cannot be sent in a header field", hint);
                }
                None => {}
            },
            None => {
                let message = format!("`{}`: this is no field that can be added", field.path());
                report.fault(entry.at, message, "write a name such as `authorization`");
            }
        }
    }
    (report.len() == before).then_some(headers)
}

/// `name=value,name=value`, with values in their %-form; `None` if it is not so.
fn headers_of_environment(text: &str) -> Option<Vec<Header>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (header, text) = pair.split_once('=')?;
        Some((name(header.trim())?, value(url::percent_decoded(text.trim())?.trim())?))
    };
    pairs.map(header).collect()
}

fn name(text: &str) -> Option<HeaderName> {
    text.parse().ok().filter(|name| !SAID.contains(name))
}

fn value(text: &str) -> Option<Secret> {
    let is_text = !text.is_empty() && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    is_text.then(|| Secret::new(text.to_owned()))
}

impl Otlp {
    /// What the collector is told beside traces, as it is sent: marked so that it is never shown.
    pub fn header_values(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.headers.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((name.clone(), value))
        })
    }
}

/// A share of all: from 0 to 1.
fn share(field: &Field<'_>, report: &mut Report) -> Option<f64> {
    let share = field.text(report)?.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    if share.is_none() {
        field.fault(report, "a number from 0 to 1 is expected", "write `sample: 0.1` for one request in ten");
    }
    share
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_variable_names_fields_as_other_programs_read_it() {
        let read = headers_of_environment(" api-key=a%20b , Authorization=Basic%20eDp5==, ").expect("two fields");
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(read, [("api-key", "a b"), ("authorization", "Basic eDp5==")]);
    }

    #[rstest]
    #[case("hunter2")]
    #[case("a b=hunter2")]
    #[case("a=%0d%0ahunter2")]
    #[case("a=%hunter2")]
    #[case("a=")]
    #[case("host=hunter2")]
    fn what_cannot_be_sent_is_no_list_of_fields(#[case] text: &str) {
        assert!(headers_of_environment(text).is_none());
    }
}
