//! The worker and its vision from outside.

mod fake_server;
mod real_data;
mod worker;
