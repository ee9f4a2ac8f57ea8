//! The JSON Schema of the file, for editors. It is written by hand, so that it can be read; a test holds it against what
//! is asked for while files are read.

/// The schema (draft 2020-12) of the configuration file, as JSON.
pub fn schema() -> &'static str {
    include_str!("../../../../config.schema.json")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex_automata::meta::Regex;
    use serde_json::Value;

    use super::super::field::asked;
    use super::super::{Faults, example, parse};
    use super::schema;

    /// Every section and every field whose value is a section, so that all of their fields are asked for.
    const WHOLE: &str = r#"
server: {host: localhost, port: 0, tls: {cert: tests/tls/cert.pem, key: tests/tls/key.pem}}
routes:
  r:
    upstream: "https://a"
    limits: {requests: 1/s, concurrency: 1, shared: false}
    provider: generic
    host_header: client
    http2: auto
    tls: {ca: tests/tls/cert.pem, cert: tests/tls/cert.pem, key: tests/tls/key.pem, server_name: b}
rate_limits: [{domain: d, requests_per_second: 1, burst: 1, limits: {requests: 1/s}, per: host, shared: true}]
default_rate_limit: {requests_per_second: 2, burst: 1, limits: {requests: 1/s}, shared: true}
providers:
  p:
    api_key: k
    endpoint: "http://a"
    provider: generic
    http2: prior_knowledge
    key_field: x-api-key
    models: [m]
    model_aliases: {a: m}
    fallback: true
    reserve_output: none
    count_cached: true
    tokenizer: off
    limits: {requests: 1/s}
    model_limits: {m: {tokens: 1/s}}
clients: {c: {token: t, weight: 1, urgency: 1, limits: {requests: 1/s}}}
queue: {max_depth: 1, client_by: [token]}
retry: {attempts: 1, on: [429]}
state: {path: x}
admin: {port: 1}
shared: {redis: "redis://a", prefix: p, share: 100ms, instance: i}
log: {level: info, format: text, access: true}
telemetry: {otlp: "http://a", headers: {a: b}, sample: 1, service_name: s}
"#;

    fn whole_schema() -> Value {
        serde_json::from_str(schema()).expect("the schema is JSON")
    }

    fn read(text: &str) -> Result<super::super::Config, Faults> {
        parse("config.yaml", text, &|name| (!name.starts_with("OTEL_")).then(|| format!("value-of-{name}")))
    }

    /// What a schema says of itself, of what it refers to, and of what it offers to choose from.
    fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
        let mut all = vec![schema];
        if let Some(name) = schema["$ref"].as_str() {
            let target = root.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
            all.extend(alternatives(root, target));
        }
        let choices = schema["anyOf"].as_array().into_iter().flatten();
        all.extend(choices.flat_map(|choice| alternatives(root, choice)));
        all
    }

    /// What the schema says of the value at a path such as `rate_limits[0].limits`.
    fn at<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
        let spaced = path.replace('[', ".[");
        let mut here = alternatives(root, root);
        for segment in spaced.split('.').filter(|segment| !segment.is_empty()) {
            let below = here.iter().filter_map(|schema| match segment.starts_with('[') {
                true => schema.get("items"),
                false => schema["properties"]
                    .get(segment)
                    .or(schema["additionalProperties"].as_object().and(schema.get("additionalProperties"))),
            });
            here = below.flat_map(|schema| alternatives(root, schema)).collect();
            assert!(!here.is_empty(), "config.schema.json knows nothing of `{path}`");
        }
        here
    }

    fn property_names(schemas: &[&Value]) -> BTreeSet<String> {
        let maps = schemas.iter().filter_map(|schema| schema["properties"].as_object());
        maps.flat_map(|map| map.keys().cloned()).collect()
    }

    #[test]
    fn the_schema_has_exactly_the_fields_that_files_may_have() {
        asked::take();
        read(WHOLE).unwrap_or_else(|faults| panic!("{faults}"));
        let (root, asked) = (whole_schema(), asked::take());
        for (path, known) in &asked.fields {
            let known: BTreeSet<String> = known.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(property_names(&at(&root, path)), known, "config.schema.json (left) and config/ at `{path}`");
        }
        let maps = count_of_maps(&root);
        let seen: BTreeSet<*const Value> =
            asked.fields.keys().flat_map(|path| at(&root, path)).filter(is_map).map(std::ptr::from_ref).collect();
        assert_eq!(seen.len(), maps, "the test's file has no example of one of the schema's sections");
    }

    fn is_map(schema: &&Value) -> bool {
        schema["properties"].is_object()
    }

    fn count_of_maps(schema: &Value) -> usize {
        let below: usize = match schema {
            Value::Object(map) => map.values().map(count_of_maps).sum(),
            Value::Array(items) => items.iter().map(count_of_maps).sum(),
            _ => 0,
        };
        below + usize::from(is_map(&schema))
    }

    #[test]
    fn the_schema_offers_exactly_the_words_and_bounds_that_are_accepted() {
        asked::take();
        read(WHOLE).unwrap_or_else(|faults| panic!("{faults}"));
        let (root, asked) = (whole_schema(), asked::take());
        assert!(asked.words.len() > 9 && asked.bounds.len() > 5, "{asked:?}");
        for (path, words) in &asked.words {
            let here = at(&root, path);
            let offered = here.iter().flat_map(|schema| schema["enum"].as_array().into_iter().flatten());
            let offered = offered.chain(here.iter().filter_map(|schema| schema.get("const"))).filter_map(Value::as_str);
            let (offered, words): (BTreeSet<&str>, BTreeSet<&str>) =
                (offered.collect(), words.iter().copied().collect());
            assert_eq!(offered, words, "config.schema.json (left) and config/ at `{path}`");
        }
        for (path, bounds) in &asked.bounds {
            let here = at(&root, path);
            let stated =
                here.iter().find_map(|schema| Some((schema["minimum"].as_u64()?, schema["maximum"].as_u64()?)));
            assert_eq!(
                stated,
                Some((*bounds.start(), *bounds.end())),
                "config.schema.json (left) and config/ at `{path}`"
            );
        }
    }

    /// The part of JSON Schema that this schema uses.
    fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
        let known = [
            "$schema",
            "$ref",
            "$defs",
            "title",
            "description",
            "type",
            "properties",
            "additionalProperties",
            "required",
            "items",
            "anyOf",
            "enum",
            "const",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "pattern",
        ];
        let rules = schema.as_object().expect("a schema is a map");
        rules.iter().all(|(rule, said)| {
            assert!(known.contains(&rule.as_str()), "this test does not know `{rule}`");
            match rule.as_str() {
                "$ref" => fits(
                    root,
                    root.pointer(said.as_str().expect("a text").trim_start_matches('#')).expect("it leads somewhere"),
                    value,
                ),
                "type" => names(said).iter().any(|name| is_of(name, value)),
                "properties" => said
                    .as_object()
                    .expect("a map")
                    .iter()
                    .all(|(name, schema)| value.get(name).is_none_or(|value| fits(root, schema, value))),
                "additionalProperties" => value.as_object().is_none_or(|map| {
                    let rest = map
                        .iter()
                        .filter(|(name, _)| rules.get("properties").is_none_or(|known| known.get(name).is_none()));
                    rest.map(|(_, value)| value).all(|value| said.is_object() && fits(root, said, value))
                }),
                "required" => {
                    value.as_object().is_none_or(|map| names(said).iter().all(|name| map.contains_key(*name)))
                }
                "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(root, said, item))),
                "anyOf" => said.as_array().expect("a list").iter().any(|schema| fits(root, schema, value)),
                "enum" => said.as_array().expect("a list").contains(value),
                "const" => said == value,
                "minimum" => value.as_f64().is_none_or(|number| number >= said.as_f64().expect("a number")),
                "maximum" => value.as_f64().is_none_or(|number| number <= said.as_f64().expect("a number")),
                "pattern" => value.as_str().is_none_or(|text| matches(said.as_str().expect("a text"), text)),
                "exclusiveMinimum" => value.as_f64().is_none_or(|number| number > said.as_f64().expect("a number")),
                _ => true,
            }
        })
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_match(text)
    }

    fn names(said: &Value) -> Vec<&str> {
        said.as_array()
            .map_or_else(|| said.as_str().into_iter().collect(), |list| list.iter().filter_map(Value::as_str).collect())
    }

    fn is_of(name: &str, value: &Value) -> bool {
        match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("this test does not know the type `{other}`"),
        }
    }

    /// The YAML examples of a page that are whole files.
    fn files_of_page(page: &str) -> Vec<String> {
        let blocks =
            page.split("```yaml\n").skip(1).filter_map(|block| block.split_once("```").map(|(block, _)| block));
        blocks.filter(|block| block.starts_with("server:")).map(str::to_owned).collect()
    }

    /// The configurations within a file for Kubernetes.
    fn files_of_manifest(manifest: &str) -> Vec<String> {
        let blocks = manifest.split("  config.yaml: |\n").skip(1);
        let inside =
            |block: &str| block.lines().map_while(|line| line.strip_prefix("    ")).collect::<Vec<_>>().join("\n");
        blocks.map(inside).collect()
    }

    #[test]
    fn every_example_fits_the_schema_and_is_accepted() {
        let mut files = vec![
            example().to_owned(),
            WHOLE.to_owned(),
            include_str!("../../../../packaging/container.yaml").to_owned(),
        ];
        files.extend(files_of_page(include_str!("../../../../README.md")));
        files.extend(files_of_page(include_str!("../../../../docs/configuration.md")).into_iter().map(with_required));
        files.extend(files_of_manifest(include_str!("../../../../packaging/kubernetes/cooldown-proxy.yaml")));
        files.extend(files_of_manifest(include_str!("../../../../packaging/kubernetes/sidecar.yaml")));
        assert!(files.len() > 6, "there are pages with examples");
        let root = whole_schema();
        for text in files {
            read(&text).unwrap_or_else(|faults| panic!("{faults}"));
            let value: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert!(fits(&root, &root, &value), "it does not fit the schema:\n{text}");
        }
    }

    /// Examples of one section are no whole files.
    fn with_required(text: String) -> String {
        if text.contains("routes:") || text.contains("providers:") {
            text
        } else {
            format!("{text}\nroutes: {{\"*\": \"http://a\"}}\n")
        }
    }

    #[test]
    fn the_example_tells_editors_where_the_schema_of_this_version_is() {
        let first = example().lines().next().expect("there is a line");
        let path = concat!("/v", env!("CARGO_PKG_VERSION"), "/config.schema.json");
        assert!(first.starts_with("# yaml-language-server: $schema=https://") && first.ends_with(path), "{first}");
    }

    #[test]
    fn what_no_file_may_say_does_not_fit() {
        let root = whole_schema();
        let server = "server: {host: localhost, port: 0}\n";
        for text in [
            "routes: {a: \"http://b\"}",
            "server: {host: localhost}\nroutes: {a: \"http://b\"}",
            "server: {host: localhost, port: 65536}\nroutes: {a: \"http://b\"}",
            server,
            "server: {host: localhost, port: 0, prot: 1}\nroutes: {a: \"http://b\"}",
            "server: {host: localhost, port: 0}\nroutes: {a: {limits: {requests: 1/s}}}",
            "server: {host: localhost, port: 0}\nroutes: {a: \"http://b\"}\nlog: {level: loud}",
            "server: {host: localhost, port: 0}\nroutes: {a: \"http://b\"}\nqueue: {max_wait: 5}",
            "server: {host: localhost, port: 0}\nroutes: {a: \"http://b\"}\nretry: {attempts: 0}",
        ] {
            assert!(read(text).is_err(), "{text}");
            let value: Value = serde_saphyr::from_str(text).expect("valid YAML");
            assert!(!fits(&root, &root, &value), "{text}");
        }
    }
}
