//! Reads which models a provider serves, and what holds for them: `models`, `model_aliases`, `model_limits` and `tokenizer`.

use super::fault::Report;
use super::field::{Field, Fields, Named};
use super::glob::{ModelError, ModelGlob};
use super::limits;
use super::model::Limits;
use super::preset::Preset;
use crate::provider::Tokenizer;

/// Reads `models`; without it a provider serves what is known of its kind.
pub(super) fn models(
    fields: &mut Fields<'_>,
    entry: &Named<'_>,
    preset: &Preset,
    report: &mut Report,
) -> Vec<ModelGlob> {
    let Some(field) = fields.take("models") else {
        if preset.models.is_empty() && preset.has_models {
            require_models(entry, report);
        }
        return preset.models.iter().filter_map(|model| ModelGlob::parse(model).ok()).collect();
    };
    let is_list = field.is_list();
    let items = field.list(report);
    if is_list && items.is_empty() && preset.has_models {
        require_models(entry, report);
    }
    items.iter().filter_map(|item| model(item, report)).collect()
}

fn require_models(entry: &Named<'_>, report: &mut Report) {
    let message = format!("provider {}: at least one model is required", entry.name.escape_debug());
    report.fault(entry.at, message, "write `models: [model-name, \"family-*\"]`");
}

fn model(field: &Field<'_>, report: &mut Report) -> Option<ModelGlob> {
    ModelGlob::parse(field.text(report)?).map_err(|why| field.fault(report, why, why.hint())).ok()
}

/// Reads `model_aliases`: the names that callers use, each with the provider's own.
pub(super) fn aliases(fields: &mut Fields<'_>, report: &mut Report) -> Vec<(String, String)> {
    let entries = fields.take("model_aliases").map(|field| field.named(report)).unwrap_or_default();
    entries.iter().filter_map(|entry| alias(entry, report)).collect()
}

fn alias(entry: &Named<'_>, report: &mut Report) -> Option<(String, String)> {
    let alias = ModelGlob::parse_name(entry.name);
    if let Err(why) = alias {
        fault_of_name(entry, why, report);
    }
    let field = &entry.field;
    if field.is_empty() {
        report.fault(entry.at, format!("`{}`: {}", field.path(), ModelError::Name), "write `alias: model-name`");
        return None;
    }
    let model = ModelGlob::parse_name(field.text(report)?);
    let model = model.map_err(|why| field.fault(report, why, "write the provider's own name of one model"));
    Some((alias.ok()?, model.ok()?))
}

/// Reads `model_limits`.
pub(super) fn limits(fields: &mut Fields<'_>, report: &mut Report) -> Vec<(ModelGlob, Limits)> {
    let entries = fields.take("model_limits").map(|field| field.named(report)).unwrap_or_default();
    let mut all = Vec::new();
    for entry in entries {
        let glob = ModelGlob::parse(entry.name).map_err(|why| fault_of_name(&entry, why, report));
        let limits = limits::general(entry.field, report);
        all.extend(glob.ok().map(|glob| (glob, limits)));
    }
    all
}

/// Reads `tokenizer`: one for all models, or one for each that matches.
pub(super) fn tokenizers(fields: &mut Fields<'_>, report: &mut Report) -> Vec<(ModelGlob, Option<Tokenizer>)> {
    let Some(field) = fields.take("tokenizer") else { return Vec::new() };
    if !field.is_map() {
        let all = ModelGlob::parse("*").ok();
        return all.zip(tokenizer(&field, report)).into_iter().collect();
    }
    let mut all = Vec::new();
    for entry in field.named(report) {
        let glob = ModelGlob::parse(entry.name).map_err(|why| fault_of_name(&entry, why, report));
        all.extend(glob.ok().zip(tokenizer(&entry.field, report)));
    }
    all
}

fn tokenizer(field: &Field<'_>, report: &mut Report) -> Option<Option<Tokenizer>> {
    let [first, second] = Tokenizer::ALL.map(|(name, tokenizer)| (name, Some(tokenizer)));
    field.choice(&[first, second, ("off", None)], report)
}

fn fault_of_name(entry: &Named<'_>, why: ModelError, report: &mut Report) {
    report.fault(entry.at, format!("`{}`: {why}", entry.field.path()), why.hint());
}
