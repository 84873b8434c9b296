//! The read routes, one file per resource.

pub mod analysis;
pub mod audit;
pub mod candidate;
pub mod challenge;
pub mod cutout;
pub mod entry_stream;
pub mod evidence;
pub mod experiment;
pub mod export;
pub mod extraction;
pub mod game_match;
pub mod history;
pub mod job;
pub mod matching;
pub mod merchandising;
pub mod model;
pub mod operations;
pub mod performance;
pub mod player;
pub mod product;
pub mod projection;
pub mod queue;
pub mod recommendation;
pub mod retry;
pub mod search;
pub mod stream;
pub mod subject_report;
pub mod user_profile;
pub mod what_if;
pub mod worker;

use std::sync::Arc;

pub(crate) use web::tag::Tag;

use web::caller::{Role, Roles};

use crate::ReadApi;

/// Lists the route groups once, for their type and their construction: in lists, because a tuple of poem-openapi has at
/// most 16 groups.
macro_rules! route_groups {
    ($([$($module:ident::$group:ident),* $(,)?]),* $(,)?) => {
        /// The typed routes. The root combines them with those of the write side into one OpenAPI document.
        pub type Routes = ($(($($module::$group,)*),)*);

        impl ReadApi {
            /// The routes of the OpenAPI document.
            pub fn routes(self: &Arc<Self>) -> Routes {
                ($(($($module::$group { api: Arc::clone(self) },)*),)*)
            }
        }
    };
}

route_groups! {
    [
        job::JobRoutes,
        analysis::AnalysisRoutes,
        history::HistoryRoutes,
        matching::MatchingRoutes,
        evidence::EvidenceRoutes,
        stream::StreamRoutes,
    ],
    [
        queue::QueueRoutes,
        entry_stream::EntryStreamRoutes,
        game_match::GameMatchRoutes,
        challenge::ChallengeRoutes,
        player::PlayerRoutes,
    ],
    [
        product::ProductRoutes,
        model::ModelRoutes,
        cutout::CutoutRoutes,
        extraction::ExtractionRoutes,
        candidate::CandidateRoutes,
        export::ExportRoutes,
        search::SearchRoutes,
        recommendation::RecommendationRoutes,
        experiment::ExperimentRoutes,
        user_profile::UserProfileRoutes,
        merchandising::MerchandisingRoutes,
    ],
    [
        worker::WorkerRoutes,
        projection::ProjectionRoutes,
        retry::RetryRoutes,
        operations::OperationRoutes,
        performance::PerformanceRoutes,
        audit::AuditRoutes,
        subject_report::SubjectReportRoutes,
        what_if::WhatIfRoutes,
    ],
}

/// The roles that may use the matchmaking routes.
pub(crate) fn player_roles() -> Roles {
    Role::User | Role::Service | Role::Admin
}
