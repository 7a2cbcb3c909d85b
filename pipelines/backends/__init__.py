"""Third-party models behind roles; one file per model family."""
