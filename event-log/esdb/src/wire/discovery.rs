//! Discovery: the features of the server, and the members of its cluster, of which it is the only one.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::event_conversion::UuidFormat;
use super::node::Node;
use super::proto::event_store::client::Empty;
use super::proto::event_store::client::gossip::gossip_server::Gossip;
use super::proto::event_store::client::gossip::member_info::VNodeState;
use super::proto::event_store::client::gossip::{ClusterInfo, EndPoint, MemberInfo};
use super::proto::event_store::client::server_features::server_features_server::ServerFeatures;
use super::proto::event_store::client::server_features::{SupportedMethod, SupportedMethods};
use event_log::EventLog;

/// The version of EventStoreDB whose behaviour clients can expect. They compare it, so it must be an existing version.
const PROTOCOL_VERSION: &str = "25.0.0";

const GROUPS: &str = "event_store.client.persistent_subscriptions.persistentsubscriptions";

/// The supported methods with their features, by service. Clients compare the names in lower case.
pub(super) const METHODS: [(&str, &str, &[&str]); 13] = [
    ("event_store.client.streams.streams", "append", &[]),
    ("event_store.client.streams.streams", "batchappend", &["deadline_duration"]),
    ("event_store.client.streams.streams", "read", &["position", "events"]),
    (GROUPS, "create", &["stream", "all"]),
    (GROUPS, "update", &["stream", "all"]),
    (GROUPS, "delete", &["stream", "all"]),
    (GROUPS, "read", &["stream", "all"]),
    (GROUPS, "getinfo", &["stream", "all"]),
    (GROUPS, "replayparked", &["stream", "all"]),
    (GROUPS, "list", &["stream", "all"]),
    (GROUPS, "restartsubsystem", &[]),
    ("event_store.client.gossip.gossip", "read", &[]),
    ("event_store.client.server_features.serverfeatures", "getsupportedmethods", &[]),
];

/// The services for discovery. They need no authentication, because clients call them before they authenticate.
#[derive(Clone, Debug)]
pub(super) struct Discovery(pub(super) Arc<Node>);

#[tonic::async_trait]
impl ServerFeatures for Discovery {
    async fn get_supported_methods(&self, _: Request<Empty>) -> Result<Response<SupportedMethods>, Status> {
        self.0.server_state.check()?;
        let methods = METHODS
            .map(|(service, method, features)| SupportedMethod {
                method_name: method.to_owned(),
                service_name: service.to_owned(),
                features: features.iter().map(|&feature| feature.to_owned()).collect(),
            })
            .into();
        let event_store_server_version = PROTOCOL_VERSION.to_owned();
        Ok(Response::new(SupportedMethods { methods, event_store_server_version }))
    }
}

#[tonic::async_trait]
impl Gossip for Discovery {
    async fn read(&self, _: Request<Empty>) -> Result<Response<ClusterInfo>, Status> {
        self.0.server_state.check()?;
        let member = MemberInfo {
            instance_id: Some(UuidFormat::Text.write(self.0.log.identity().id.0)),
            time_stamp: self.0.clock.now().micros().saturating_mul(10),
            state: VNodeState::Leader.into(),
            is_alive: true,
            http_end_point: Some(EndPoint {
                address: self.0.advertised.host.clone(),
                port: self.0.advertised.port.into(),
            }),
        };
        Ok(Response::new(ClusterInfo { members: vec![member] }))
    }
}
