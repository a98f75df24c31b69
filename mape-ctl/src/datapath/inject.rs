//! Owns sending frames into a NIC's program as if they had come by that NIC a second time (live frames, Linux 5.18).

use std::path::PathBuf;

use aya::{
    TestRun as _, TestRunAttrs, TestRunOptions,
    programs::{ProgramError, Xdp},
};
use aya_obj::programs::XdpAttachType;

use super::pin::PinFolder;

/// Why there is no program to send frames into.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the pinned program {path}")]
pub struct InjectError {
    path: PathBuf,
    source: Box<ProgramError>,
}

/// A NIC and its program.
#[derive(Debug)]
pub struct Injector {
    program: Xdp,
    ifindex: u32,
}

impl Injector {
    /// Opens a NIC's pinned program.
    ///
    /// # Errors
    /// [`InjectError`].
    pub fn open(pins: &PinFolder, program: &str, ifindex: u32) -> Result<Self, InjectError> {
        let path = pins.program(program);
        match Xdp::from_pin(&path, XdpAttachType::Interface) {
            Ok(program) => Ok(Self { program, ifindex }),
            Err(source) => Err(InjectError {
                path,
                source: Box::new(source),
            }),
        }
    }

    /// Sends a frame in: what the program says is done with it, as with any other.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn inject(&self, frame: &[u8]) -> Result<(), ProgramError> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, len, 0, self.ifindex, 0, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_flattened()),
            repeat: 1,
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).map(|_| ())
    }
}
