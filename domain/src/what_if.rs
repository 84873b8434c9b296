//! What another configuration would have done, computed from what was recorded.
//!
//! [`off_policy`] estimates the rate of clicks or purchases of another ranking from the lists that were served, and
//! [`interval`] computes the confidence intervals.

pub mod interval;
pub mod off_policy;
