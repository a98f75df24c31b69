//! Empty: cargo needs a library target to notice that the programs have changed.
#![no_std]
