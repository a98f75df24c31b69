//! Owns taking back: every step of `load` that changes the machine leaves its reverse here, and failure carries them out.

use std::error::Error;

/// What a reverse step may fail with.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Reverse steps, carried out last first when this is dropped, unless [`Undo::keep`] was called.
#[derive(Default)]
pub struct Undo(Vec<(String, Box<dyn FnOnce() -> Outcome>)>);

impl Undo {
    /// Notes how to take back what was just done. `what` completes the sentence "could not …".
    pub fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Outcome + 'static) {
        self.0.push((what.into(), Box::new(step)));
    }

    /// Everything went well: nothing is taken back.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (what, step) in self.0.drain(..).rev() {
            if let Err(error) = step() {
                // The error that led here is the caller's to tell; this one says what is left behind.
                eprintln!("mape-ctl: while taking back: could not {what}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::Undo;

    fn noting(log: &Rc<RefCell<Vec<u8>>>, number: u8) -> impl FnOnce() -> super::Outcome + 'static {
        let log = Rc::clone(log);
        move || {
            log.borrow_mut().push(number);
            if number == 2 { Err("no".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn steps_are_taken_back_last_first_and_a_failure_stops_nothing() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::default();
        for number in 1..=3 {
            undo.push("test", noting(&log, number));
        }
        drop(undo);
        assert_eq!(*log.borrow(), [3, 2, 1]);
    }

    #[test]
    fn what_went_well_is_kept() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::default();
        undo.push("test", noting(&log, 1));
        undo.keep();
        assert!(log.borrow().is_empty());
    }
}
