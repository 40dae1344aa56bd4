"""What gradio keeps of questions that are answered, and should not.

Read in gradio 6.31.0: of each session it keeps a set of the events that wait for a listener, for ever, even when that
is empty; and each program that comes for its answer is looked for in all of them. A program has a session for each
question, so a server that is asked for days would become larger and slower. It also keeps the path of each upload that
was asked about.
"""

import gradio as gr


class FinishedSessions:
    """Forgets the sessions of a page that nobody listens to any more."""

    def __init__(self, page: gr.Blocks) -> None:
        """Begin with none.

        Args:
            page: Which deletes its uploads itself.
        """
        self._page, self._queue = page, page._queue
        self._finished: dict[str, frozenset[str]] = {}

    def forget(self) -> None:
        """Forget the sessions in which nothing has happened since the last call, and the paths of all uploads.

        An answer that its program has not come for between two calls is lost.
        """
        for paths in self._page.temp_file_sets:
            paths.clear()
        running, waiting = self._queue.event_ids_to_events, self._queue.pending_event_ids_session
        finished = {
            session: frozenset(events)
            for session, events in waiting.items()
            if not any(event in running for event in events)
        }
        for session, events in finished.items():
            if self._finished.get(session) == events:
                del waiting[session]
                self._queue.pending_messages_per_session.pop(session, None)
        self._finished = {session: events for session, events in finished.items() if session in waiting}
