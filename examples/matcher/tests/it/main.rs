//! Integration tests of the worker and its vision code.

mod fake_server;
mod real_data;
mod worker;
