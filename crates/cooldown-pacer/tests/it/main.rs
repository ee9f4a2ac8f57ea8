//! The rules of pacing, each as a property over random workloads in virtual time, and as stories that a user would tell.

mod cooldowns;
mod extremes;
mod fairness;
mod fleet;
mod heirs;
mod join;
mod learning;
mod ledger;
mod noise;
mod promises;
mod queues;
mod reload;
mod rules;
mod scenarios;
mod sharing;
mod taught;
mod upstream;
mod world;
