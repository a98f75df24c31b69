//! Control of the MAP-E gateway: what it shall be, putting it into the kernel, and showing what happens there.
//!
//! `main.rs` is a thin program around this library; the lab tests use its [`object::object`].

pub mod check;
pub mod cli;
pub mod command;
pub mod config;
pub mod datapath;
pub mod explain;
pub mod forward;
pub mod gateway;
pub mod host;
pub mod instance;
pub mod kernel;
pub mod netlink;
pub mod object;
pub mod post;
pub mod provoke;
pub mod run;
pub mod service;
pub mod suggest;
pub mod tun;
pub mod tunnel;
pub mod undo;
pub mod view;
