"""Puts a configuration on a model, and takes it off again."""

from hiddenkey.attachment.attachment import Attachment, attach, attachment_of

__all__ = ["Attachment", "attach", "attachment_of"]
