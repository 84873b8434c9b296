//! The write side through HTTP, over a log in memory and in simulated time.

#[cfg(test)]
mod analysis;
#[cfg(test)]
mod blocks;
#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod challenges;
#[cfg(test)]
mod circuit_breakers;
mod claims;
#[cfg(test)]
mod cutout_sync;
#[cfg(test)]
mod cutouts;
#[cfg(test)]
mod exports;
#[cfg(test)]
mod external_services;
#[cfg(test)]
mod extractions;
#[cfg(test)]
mod failing_log;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod games;
mod idempotency;
mod image_matches;
mod jobs;
#[cfg(test)]
mod keyed_routes;
mod leases;
mod matching;
#[cfg(test)]
mod model;
#[cfg(test)]
mod partial_answers;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod ratings;
#[cfg(test)]
mod results;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod roles;
mod server_jobs;
#[cfg(test)]
mod subjects;
#[cfg(test)]
mod support;
mod tenants;
mod trained_models;
mod workers;
