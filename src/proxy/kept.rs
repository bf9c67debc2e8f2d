//! What of a request's head the access log tells when the request has been answered, and the head
//! is long gone.

use std::ops::Range;

use super::head::{RequestHead, split_target};

/// Copies of what is told, in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    text: Vec<u8>,
    host: Range<usize>,
    path: Range<usize>,
    user_agent: Option<Range<usize>>,
    referer: Option<Range<usize>>,
}

impl Kept {
    /// Copies what is told of a head: the path without its query.
    pub(crate) fn of(head: &RequestHead<'_>) -> Self {
        let value = |name: &str| head.headers.get_all(name).next();
        let (path, _) = split_target(head.target);
        let (user_agent, referer) = (value("user-agent"), value("referer"));
        let optional = [user_agent, referer].into_iter().flatten().map(<[u8]>::len);
        let length = head.host.len() + path.len() + optional.sum::<usize>();
        let mut kept = Self { text: Vec::with_capacity(length), ..Self::default() };
        kept.host = kept.add(head.host.as_bytes());
        kept.path = kept.add(path.as_bytes());
        kept.user_agent = user_agent.map(|value| kept.add(value));
        kept.referer = referer.map(|value| kept.add(value));
        kept
    }

    /// `Host`.
    pub(crate) fn host(&self) -> &[u8] {
        self.at(&self.host)
    }

    /// The path.
    pub(crate) fn path(&self) -> &[u8] {
        self.at(&self.path)
    }

    /// `User-Agent`.
    pub(crate) fn user_agent(&self) -> Option<&[u8]> {
        self.user_agent.as_ref().map(|range| self.at(range))
    }

    /// `Referer`.
    pub(crate) fn referer(&self) -> Option<&[u8]> {
        self.referer.as_ref().map(|range| self.at(range))
    }

    fn add(&mut self, value: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(value);
        start..self.text.len()
    }

    fn at(&self, range: &Range<usize>) -> &[u8] {
        self.text.get(range.clone()).unwrap_or_default()
    }
}
