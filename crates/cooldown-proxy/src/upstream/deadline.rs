//! A deadline that moves with every request, and hardly ever comes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set for the first request and only looked at again when it rings: setting one anew for each request
/// would cost more than parsing its head.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `at` has passed.
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            // It rang for an earlier request.
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_for_the_present_request_alone() {
        let mut deadline = Deadline::default();
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let pending = poll_fn(|cx| Poll::Ready(deadline.poll(after(50), cx))).await;
        assert!(pending.is_pending());
        poll_fn(|cx| deadline.poll(after(200), cx)).await;
        assert_eq!(began.elapsed(), Duration::from_millis(200), "a later request is not cut by an earlier one's timer");
        poll_fn(|cx| deadline.poll(after(300), cx)).await;
        assert_eq!(began.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_moves_the_timer() {
        let mut deadline = Deadline::default();
        let began = Instant::now();
        let pending = poll_fn(|cx| Poll::Ready(deadline.poll(began + Duration::from_secs(60), cx))).await;
        assert!(pending.is_pending());
        poll_fn(|cx| deadline.poll(began + Duration::from_secs(1), cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
