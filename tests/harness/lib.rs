//! What the integration tests and the project's tasks share: programs with time limits, network namespaces, the lab.

pub mod process;
