//! The rules of pacing, each as a property over random workloads in virtual time, and as stories that a user would tell.

mod extremes;
mod fairness;
mod promises;
mod queues;
mod reload;
mod rules;
mod scenarios;
mod world;
