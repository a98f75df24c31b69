//! An explanation as it grows: the programs that see the packet, what each does, what would be made and ended.

use serde_json::{Value, json};

/// One program's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chapter {
    /// The program.
    pub program: String,
    /// What it does.
    pub meaning: String,
    /// What it did with this packet.
    pub steps: Vec<String>,
    /// Who goes on, and why.
    pub next: Option<(String, String)>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// In the order in which the programs see the packet.
    pub chapters: Vec<Chapter>,
    made: Vec<(u32, String)>,
    /// What would end.
    pub ended: Vec<String>,
}

impl Story {
    /// Begins a program's part.
    pub fn begin(&mut self, program: &str, meaning: &str) {
        self.chapters.push(Chapter {
            program: program.to_owned(),
            meaning: meaning.trim().trim_end_matches('.').to_owned(),
            ..Chapter::default()
        });
    }

    /// A step. A program reads the same thing more than once; it is told once.
    pub fn say(&mut self, step: String) {
        if let Some(chapter) = self.chapters.last_mut()
            && !chapter.steps.contains(&step)
        {
            chapter.steps.push(step);
        }
    }

    /// Another program goes on.
    pub fn go_on(&mut self, program: &str, reason: &str) {
        if let Some(chapter) = self.chapters.last_mut() {
            chapter.next = Some((program.to_owned(), reason.to_owned()));
        }
    }

    /// Something would be made, in that slot.
    pub fn make(&mut self, slot: u32, what: String) {
        self.made.push((slot, what));
    }

    /// It is taken back.
    pub fn unmake(&mut self, slot: u32) {
        self.made.retain(|(made, _)| *made != slot);
    }

    /// Something would end.
    pub fn end(&mut self, what: String) {
        self.ended.push(what);
    }

    /// What would be made.
    pub fn made(&self) -> impl Iterator<Item = &str> {
        self.made.iter().map(|(_, what)| what.as_str())
    }

    /// With stable keys.
    pub fn json(&self) -> Value {
        let chapters: Vec<Value> = self
            .chapters
            .iter()
            .map(|chapter| {
                json!({
                    "program": chapter.program,
                    "meaning": chapter.meaning,
                    "steps": chapter.steps,
                    "next": chapter.next.as_ref().map(|(program, reason)| json!({"program": program, "reason": reason})),
                })
            })
            .collect();
        json!({
            "programs": chapters,
            "would_make": self.made().collect::<Vec<_>>(),
            "would_end": self.ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_once_in_each_part_and_what_is_taken_back_is_not_made() {
        let mut story = Story::default();
        for _ in 0..2 {
            story.begin("first", " Forwards.");
            story.say("looks".to_owned());
            story.say("looks".to_owned());
        }
        assert_eq!(story.chapters.len(), 2);
        assert!(
            story
                .chapters
                .iter()
                .all(|chapter| chapter.steps == ["looks"] && chapter.meaning == "Forwards")
        );
        story.make(3, "a mapping".to_owned());
        story.make(4, "a session".to_owned());
        story.unmake(3);
        assert_eq!(story.made().collect::<Vec<_>>(), ["a session"]);
    }
}
