//! How clients find out what the server is: its features, and the members of its cluster, which is itself.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::message::IdForm;
use super::node::Node;
use super::proto::event_store::client::Empty;
use super::proto::event_store::client::gossip::gossip_server::Gossip;
use super::proto::event_store::client::gossip::member_info::VNodeState;
use super::proto::event_store::client::gossip::{ClusterInfo, EndPoint, MemberInfo};
use super::proto::event_store::client::server_features::server_features_server::ServerFeatures;
use super::proto::event_store::client::server_features::{SupportedMethod, SupportedMethods};
use crate::EventLog;

/// The version of EventStoreDB whose behaviour clients may expect. They compare it, so it must be one of its numbers.
const PROTOCOL_VERSION: &str = "25.0.0";

const GROUPS: &str = "event_store.client.persistent_subscriptions.persistentsubscriptions";

/// Methods with features of their own, by service. Clients compare the names in lower case.
const METHODS: [(&str, &str, &[&str]); 13] = [
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

/// Answers anyone: clients ask before they say who they are.
#[derive(Clone, Debug)]
pub(super) struct Discovery(pub(super) Arc<Node>);

#[tonic::async_trait]
impl ServerFeatures for Discovery {
    async fn get_supported_methods(&self, _: Request<Empty>) -> Result<Response<SupportedMethods>, Status> {
        self.0.observer.check()?;
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
        self.0.observer.check()?;
        let member = MemberInfo {
            instance_id: Some(IdForm::Text.write(self.0.log.identity().id.0)),
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
