//! The command line tool; see `cli.rs`.

fn main() {}
