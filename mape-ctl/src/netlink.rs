//! Owns the conversation with the kernel's network configuration: links, addresses, routes, neighbours.
//!
//! rtnetlink is asynchronous; everything here is one question and its answer, so each method waits for it.

pub mod address;
pub mod filter;
pub mod ip6_tunnel;
pub mod link;
pub mod neighbour;
pub mod obstacle;
pub mod resolve;
pub mod route;
pub mod watch;

use std::{future::Future, io};

use futures_util::stream::{Stream, TryStreamExt as _};
use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};

/// A question that the kernel did not answer as hoped.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetlinkError {
    action: String,
    #[source]
    source: io::Error,
}

impl NetlinkError {
    /// Whether the kernel says that the thing is there already.
    pub fn is_exists(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }

    /// Whether the kernel does not know how: a module is missing.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT)
        )
    }

    /// Whether the kernel says that there is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }
}

/// An open netlink socket of this network namespace.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError {
            action: "open a netlink socket".to_owned(),
            source,
        };
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn wait<T>(
        &self,
        action: impl Into<String>,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        self.runtime.block_on(answer).map_err(|error| NetlinkError {
            action: action.into(),
            source: to_io(error),
        })
    }

    fn list<T>(
        &self,
        action: impl Into<String>,
        answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.wait(action, answers.try_collect())
    }
}

/// The kernel's error number, where there is one: people know "File exists", not netlink messages.
fn to_io(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error)
    }
}
