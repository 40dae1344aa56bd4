"""What gradio keeps of questions that are answered, and should not.

Read in gradio 6.31.0: of each session it keeps a set of the events that wait for a listener, for ever, even when that
is empty; and each program that comes for its answer is looked for in all of them. A program has a session for each
question, so a server that is asked for days would become larger and slower. It also keeps the path of each upload that
was asked about.
"""

import gradio as gr

from dogbreeds.serving.answer_queue import AnswerQueue


class FinishedSessions:
    """Forgets the sessions of a page that nobody listens to any more."""

    def __init__(self, page: gr.Blocks, answers: AnswerQueue) -> None:
        """Begin with none.

        Args:
            page: Which deletes its uploads itself.
            answers: In which its questions wait: it knows who listens.
        """
        self._page, self._queue, self._answers = page, page._queue, answers
        self._finished: dict[str, frozenset[str]] = {}

    def forget(self) -> None:
        """Forget the sessions in which nothing has happened since the last call, and the paths of all uploads.

        An answer that its program has not come for between two calls is lost; one that is being sent is not.
        """
        for paths in self._page.temp_file_sets:
            paths.clear()
        running, waiting = self._queue.event_ids_to_events, self._queue.pending_event_ids_session
        finished = {
            session: frozenset(events)
            for session, events in waiting.items()
            if not self._answers.is_heard(session) and not any(event in running for event in events)
        }
        for session, events in finished.items():
            if self._finished.get(session) == events:
                del waiting[session]
                self._queue.pending_messages_per_session.pop(session, None)
        self._finished = {session: events for session, events in finished.items() if session in waiting}
