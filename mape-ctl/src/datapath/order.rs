//! Owns orders about single ports: static forwards and reservations, made and ended by a program in the kernel while packets flow.

use std::path::PathBuf;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, Xdp},
};
use aya_obj::programs::XdpAttachType;
use mape_common::{
    layout::{PortOrder, SweepOrder, Transport, programs},
    wire::port::Port,
};

use super::{
    maps::{TableError, Tables},
    pin::PinFolder,
    sweep::{SweepError, Sweeper},
};
use crate::forward::Single;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The pinned program cannot be opened.
    #[error("cannot open the pinned program {path}; if the gateway is half gone, `mape-ctl unload` cleans up")]
    Open {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: Box<ProgramError>,
    },
    /// It cannot be run.
    #[error("cannot run the program that changes ports")]
    Run(#[source] Box<ProgramError>),
    /// Packets are always faster.
    #[error(
        "port {0} is taken anew as fast as it is freed; try again, or close the gate for a moment by `mape-ctl load`"
    )]
    Busy(u16),
    /// No record is free.
    #[error(
        "the session table is full: there is no room for a forward; end sessions (mape-ctl sessions --flush) or raise nat.sessions"
    )]
    Full,
    /// The program does not know what is meant.
    #[error("the loaded gateway refuses to change port {0}; load it again with this mape-ctl")]
    Invalid(u16),
    /// What is in the way cannot be ended.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// The order cannot be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A frame for a program that looks at none; the kernel wants at least an Ethernet header.
const FRAME: [u8; 64] = [0; 64];
/// So often in a row something new is in the way of a port that has just been freed.
const ATTEMPTS: usize = 20;

/// The ports of a loaded gateway.
pub struct Ports {
    program: Xdp,
    tables: Tables,
    sweeper: Sweeper,
}

impl Ports {
    /// Opens the pinned programs.
    ///
    /// # Errors
    /// [`OrderError::Open`], [`OrderError::Sweep`].
    pub fn open(pins: &PinFolder) -> Result<Self, OrderError> {
        let path = pins.program(programs::PORT);
        let program = Xdp::from_pin(&path, XdpAttachType::Interface).map_err(|source| OrderError::Open {
            path,
            source: Box::new(source),
        })?;
        Ok(Self {
            program,
            tables: Tables::new(pins),
            sweeper: Sweeper::open(pins)?,
        })
    }

    /// Makes a forward; what holds its port or its endpoint is ended first. Gives how many records were.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn forward(&self, single: &Single) -> Result<u32, OrderError> {
        let order = order(PortOrder::FORWARD, single);
        let mut ended = 0;
        for _ in 0..ATTEMPTS {
            if self.call(&order)? {
                return Ok(ended);
            }
            ended += self.sweeper.flush(&on_port(single.protocol, single.external))?;
            ended += self.sweeper.flush(&SweepOrder {
                inside: order.inside,
                inside_port: order.inside_port,
                protocol: order.protocol,
                ..SweepOrder::default()
            })?;
        }
        Err(OrderError::Busy(single.external))
    }

    /// Ends a forward and its sessions; gives how many sessions. None there is fine.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn unforward(&self, single: &Single) -> Result<u32, OrderError> {
        let order = order(PortOrder::UNFORWARD, single);
        for _ in 0..ATTEMPTS {
            if self.call(&order)? {
                // Twice: a packet that found the forward a moment ago may have made its session behind the first pass.
                let on_port = on_port(single.protocol, single.external);
                return Ok(self.sweeper.flush(&on_port)? + self.sweeper.flush(&on_port)?);
            }
        }
        Err(OrderError::Busy(single.external))
    }

    /// Keeps a port from translation, for all protocols; sessions on it are ended first. Gives how many records were.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn reserve(&self, port: u16) -> Result<u32, OrderError> {
        let mut ended = 0;
        for transport in Transport::ALL {
            let order = reservation(PortOrder::RESERVE, transport, port);
            let mut attempts = 0..ATTEMPTS;
            while !self.call(&order)? {
                attempts.next().ok_or(OrderError::Busy(port))?;
                ended += self.sweeper.flush(&on_port(transport.protocol(), port))?;
            }
        }
        Ok(ended)
    }

    /// Gives a port back to translation.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn release(&self, port: u16) -> Result<(), OrderError> {
        for transport in Transport::ALL {
            self.call(&reservation(PortOrder::RELEASE, transport, port))?;
        }
        Ok(())
    }

    /// True where it was done or was so before, false where something is in the way.
    fn call(&self, order: &PortOrder) -> Result<bool, OrderError> {
        self.tables.set_port_order(order)?;
        let options = TestRunOptions {
            data_in: Some(&FRAME),
            ..TestRunOptions::new()
        };
        self.program
            .test_run(options)
            .map_err(|source| OrderError::Run(Box::new(source)))?;
        match self.tables.port_order()?.outcome {
            PortOrder::DONE | PortOrder::ABSENT => Ok(true),
            PortOrder::BUSY => Ok(false),
            PortOrder::FULL => Err(OrderError::Full),
            _ => Err(OrderError::Invalid(Port::from_bytes(order.external_port).0)),
        }
    }
}

fn order(action: u8, single: &Single) -> PortOrder {
    PortOrder {
        inside: single.inside.octets(),
        inside_port: Port(single.inside_port).to_bytes(),
        external_port: Port(single.external).to_bytes(),
        protocol: single.protocol,
        action,
        ..PortOrder::default()
    }
}

fn reservation(action: u8, transport: Transport, port: u16) -> PortOrder {
    PortOrder {
        external_port: Port(port).to_bytes(),
        protocol: transport.protocol(),
        action,
        ..PortOrder::default()
    }
}

/// Every session on a port.
fn on_port(protocol: u8, port: u16) -> SweepOrder {
    SweepOrder {
        external_port: Port(port).to_bytes(),
        protocol,
        ..SweepOrder::default()
    }
}
