//! Which providers serve a model.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::config::ModelGlob;
use crate::config::model::Provider;

/// The models of all providers. A name is found at once, however many there are; globs are tried one after the other.
#[derive(Debug)]
pub(crate) struct ModelTable {
    /// Who lists a model by its name, or has an alias of that name.
    names: HashMap<Box<str>, SmallVec<[usize; 1]>, RandomState>,
    /// Who lists a glob.
    globs: Vec<(ModelGlob, usize)>,
    /// Whether a provider serves only while others cannot, by its place in the file.
    fallback: Vec<bool>,
}

impl ModelTable {
    /// The models of these providers, which are told apart by their place.
    pub(crate) fn new(providers: &[Provider]) -> Self {
        let fallback = providers.iter().map(|provider| provider.fallback).collect();
        let mut table = Self { names: HashMap::default(), globs: Vec::new(), fallback };
        for (index, provider) in providers.iter().enumerate() {
            for (alias, _) in &provider.model_aliases {
                table.names.entry(alias.as_str().into()).or_default().push(index);
            }
            for glob in &provider.models {
                if glob.is_name() {
                    table.names.entry(glob.as_str().into()).or_default().push(index);
                } else {
                    table.globs.push((glob.clone(), index));
                }
            }
        }
        table
    }

    /// Whether no provider lists a model.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.globs.is_empty()
    }

    /// The providers that serve `model`, each once: in the order of the file, those behind that serve as a fallback.
    pub(crate) fn candidates(&self, model: &str) -> SmallVec<[usize; 2]> {
        let named = self.names.get(model).into_iter().flatten().copied();
        let matching = self.globs.iter().filter(|(glob, _)| glob.matches(model)).map(|(_, provider)| *provider);
        let mut found: SmallVec<[usize; 2]> = named.chain(matching).collect();
        found.sort_unstable_by_key(|provider| (self.fallback[*provider], *provider));
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(providers: &str) -> ModelTable {
        let text = format!("server: {{host: localhost, port: 0}}\nproviders:\n{providers}");
        let config = crate::config::parse("config.yaml", &text, &|_| None);
        ModelTable::new(&config.unwrap_or_else(|faults| panic!("{faults}")).providers)
    }

    fn candidates(table: &ModelTable, model: &str) -> Vec<usize> {
        table.candidates(model).to_vec()
    }

    #[test]
    fn every_provider_that_lists_a_model_is_a_candidate_in_the_order_of_the_file() {
        let table = table(
            "  a: {api_key: k, endpoint: \"http://a\", models: [\"qwen-*\", \"*-32b\"]}\n  \
               b: {api_key: k, endpoint: \"http://b\", models: [qwen-3, qwen-3-32b, qwen-3-32b]}\n  \
               c: {api_key: k, endpoint: \"http://c\", models: [\"*\"]}\n",
        );
        assert_eq!(candidates(&table, "qwen-3"), [0, 1, 2]);
        assert_eq!(candidates(&table, "qwen-3-32b"), [0, 1, 2]);
        assert_eq!(candidates(&table, "qwen-3-8b"), [0, 2]);
        assert_eq!(candidates(&table, "Qwen-3"), [2]);
        assert_eq!(candidates(&table, ""), [2]);
    }

    #[test]
    fn a_fallback_comes_behind_all_others() {
        let table = table(
            "  a: {api_key: k, endpoint: \"http://a\", models: [m], fallback: true}\n  \
               b: {api_key: k, endpoint: \"http://b\", models: [\"*\"]}\n  \
               c: {api_key: k, endpoint: \"http://c\", models: [\"m*\"], fallback: true}\n  \
               d: {api_key: k, endpoint: \"http://d\", models: [m]}\n",
        );
        assert_eq!(candidates(&table, "m"), [1, 3, 0, 2]);
        assert_eq!(candidates(&table, "m2"), [1, 2]);
    }

    #[test]
    fn an_alias_counts_as_listed_at_its_own_provider() {
        let table = table(
            "  a: {api_key: k, endpoint: \"http://a\", models: [gpt-4], model_aliases: {gpt-4: big, small: tiny}}\n  \
               b: {api_key: k, endpoint: \"http://b\", models: [\"gpt-*\"], model_aliases: {gpt-5: gpt-4}}\n",
        );
        assert_eq!(candidates(&table, "gpt-4"), [0, 1]);
        assert_eq!(candidates(&table, "small"), [0]);
        assert_eq!(candidates(&table, "big"), [0; 0]);
        assert_eq!(candidates(&table, "gpt-5"), [1]);
    }

    #[test]
    fn a_provider_without_models_lists_none() {
        assert!(ModelTable::new(&[]).is_empty());
        assert!(table("  github: {api_key: k}\n").is_empty());
        assert!(!table("  groq: {api_key: k}\n").is_empty());
    }

    #[test]
    fn each_of_thousands_of_names_is_found() {
        let names: Vec<String> = (0..5000).map(|n| format!("model-{n}")).collect();
        let table =
            table(&format!("  a: {{api_key: k, endpoint: \"http://a\", models: [{}, \"x*\"]}}\n", names.join(", ")));
        assert!(names.iter().all(|name| candidates(&table, name) == [0]));
        assert_eq!(table.globs.len(), 1);
        assert_eq!(candidates(&table, "model-5000"), [0; 0]);
    }
}
