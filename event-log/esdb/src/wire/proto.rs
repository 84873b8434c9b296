//! The protocol's messages and service traits, generated from `protos/` and committed, so that a build needs no generator.
//! A test compares them with their definitions; with `UPDATE_PROTOCOL=1` it writes them.
//!
//! The definitions come from the `kurrentdb` crate (MIT, Kurrent Inc.). The modules follow the packages, because the
//! generated code uses these paths.
#![allow(clippy::all, unreachable_pub, missing_debug_implementations)]

pub mod google {
    pub mod rpc {
        include!("generated/google.rpc.rs");
    }
}

pub mod event_store {
    pub mod client {
        include!("generated/event_store.client.rs");

        pub mod gossip {
            include!("generated/event_store.client.gossip.rs");
        }
        pub mod persistent_subscriptions {
            include!("generated/event_store.client.persistent_subscriptions.rs");
        }
        pub mod server_features {
            include!("generated/event_store.client.server_features.rs");
        }
        pub mod streams {
            include!("generated/event_store.client.streams.rs");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn committed_types_match_their_definitions() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files =
            ["streams.proto", "persistent.proto", "gossip.proto", "serverfeatures.proto", "status.proto"];
        let definitions = protox::compile(files, [root.join("protos")]).unwrap();
        let made = tempfile::tempdir().unwrap();
        tonic_prost_build::configure()
            .build_client(false)
            // Payloads stay slices of the buffer that they arrived in.
            .bytes(".")
            .out_dir(made.path())
            .compile_fds(definitions)
            .unwrap();
        let committed = root.join("src/wire/generated");
        let regenerate = std::env::var_os("UPDATE_PROTOCOL").is_some();
        for entry in std::fs::read_dir(made.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let text = std::fs::read_to_string(made.path().join(&name)).unwrap();
            if regenerate {
                std::fs::write(committed.join(&name), &text).unwrap();
            }
            let known = std::fs::read_to_string(committed.join(&name)).unwrap_or_default();
            assert!(known == text, "{} is outdated: run this test with UPDATE_PROTOCOL=1", name.display());
        }
    }
}
