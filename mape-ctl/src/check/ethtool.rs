//! Owns asking a NIC's driver what `ethtool -l` and `ethtool -k` show.

use std::collections::BTreeSet;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures_util::stream::TryStreamExt as _;
use tokio::runtime::{Builder, Runtime};

/// Queue pairs of a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channels {
    /// In use.
    pub(super) current: u32,
    /// There are.
    pub(super) most: u32,
}

/// An open socket to the kernel's ethtool. Who gets no answer knows nothing, which is no trouble.
pub(super) struct Ethtool {
    runtime: Runtime,
    handle: EthtoolHandle,
}

impl Ethtool {
    pub(super) fn open() -> Option<Self> {
        let runtime = Builder::new_current_thread().enable_io().build().ok()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = ethtool::new_connection().ok()?;
            runtime.spawn(connection);
            handle
        };
        Some(Self { runtime, handle })
    }

    pub(super) fn channels(&self, interface: &str) -> Option<Channels> {
        let mut handle = self.handle.clone();
        let attributes: Vec<EthtoolAttr> = self.runtime.block_on(async {
            let answers = handle.channel().get(Some(interface)).execute().await.ok()?;
            let messages: Vec<_> = answers.try_collect().await.ok()?;
            Some(messages.into_iter().flat_map(|message| message.payload.nlas).collect())
        })?;
        let mut channels = Channels::default();
        for attribute in attributes {
            if let EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) = attribute {
                channels.current = count;
            }
            if let EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(count)) = attribute {
                channels.most = count;
            }
        }
        (channels.most > 0).then_some(channels)
    }

    /// The names of the features that are on.
    pub(super) fn features(&self, interface: &str) -> Option<BTreeSet<String>> {
        let mut handle = self.handle.clone();
        self.runtime.block_on(async {
            let answers = handle.feature().get(Some(interface)).execute().await.ok()?;
            let messages: Vec<_> = answers.try_collect().await.ok()?;
            let attributes = messages.into_iter().flat_map(|message| message.payload.nlas);
            let bits = attributes.filter_map(|attribute| {
                if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
                    Some(bits)
                } else {
                    None
                }
            });
            Some(bits.flatten().filter(|bit| bit.value).map(|bit| bit.name).collect())
        })
    }
}
