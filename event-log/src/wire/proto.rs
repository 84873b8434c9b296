//! The protocol's messages and service traits, made from `protos/` when building.
//!
//! The definitions come from the `kurrentdb` crate (MIT, Kurrent Inc.). The modules follow the packages, because the
//! generated code refers to itself by them.
#![allow(clippy::all, unreachable_pub, missing_debug_implementations)]

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod event_store {
    pub mod client {
        tonic::include_proto!("event_store.client");

        pub mod gossip {
            tonic::include_proto!("event_store.client.gossip");
        }
        pub mod persistent_subscriptions {
            tonic::include_proto!("event_store.client.persistent_subscriptions");
        }
        pub mod server_features {
            tonic::include_proto!("event_store.client.server_features");
        }
        pub mod streams {
            tonic::include_proto!("event_store.client.streams");
        }
    }
}
