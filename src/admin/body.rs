//! The body of an answer: a few pieces of memory, which other answers may share, or events without an end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::events::Events;

/// What is answered.
pub(super) enum Answer {
    /// Pieces, one after the other.
    Pieces(VecDeque<Bytes>),
    /// What happens from now on.
    Events(Events),
}

impl<const N: usize> From<[Bytes; N]> for Answer {
    fn from(pieces: [Bytes; N]) -> Self {
        Self::Pieces(
            pieces
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .collect(),
        )
    }
}

impl From<VecDeque<Bytes>> for Answer {
    fn from(pieces: VecDeque<Bytes>) -> Self {
        Self::Pieces(pieces)
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::from([Bytes::from(text)])
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Pieces(pieces) => {
                Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
            }
            Self::Events(events) => events.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.is_empty(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces(pieces) => {
                let size: usize = pieces.iter().map(Bytes::len).sum();
                SizeHint::with_exact(size as u64)
            }
            Self::Events(_) => SizeHint::default(),
        }
    }
}
