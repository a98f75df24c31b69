//! What the integration tests and the project's tasks share: programs with time limits, network namespaces, the lab.

pub mod capture;
pub mod checks;
pub mod frame;
#[cfg(feature = "tables")]
pub mod fuzz;
pub mod gateway;
pub mod lab;
#[cfg(feature = "tables")]
pub mod model;
pub mod netns;
pub mod pass;
pub mod plan;
pub mod process;
pub mod recipe;
pub mod servers;
#[cfg(feature = "tables")]
pub mod table;
pub mod tap;
#[cfg(feature = "tables")]
pub mod traces;
pub mod traffic;
