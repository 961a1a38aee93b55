"""What is logged once, and what is not logged at all."""

import logging
import uuid

from hiddenkey import log


def test_what_is_muted_is_said_when_it_counts(caplog):
    subject = str(uuid.uuid4())
    with caplog.at_level(logging.INFO, "hiddenkey"):
        with log.muted():
            log.once(subject, "in a trial")
            log.logger.error("no training of a user's")
        assert caplog.text == ""
        log.once(subject, "in a training")
        log.once(subject, "again")
    assert [record.message for record in caplog.records] == ["in a training"]


def test_a_failure_ends_the_silence():
    try:
        with log.muted():
            raise KeyError
    except KeyError:
        assert not log.logger.disabled
