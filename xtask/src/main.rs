//! Parses the task's name and hands over to its file; nothing else.

fn main() {}
