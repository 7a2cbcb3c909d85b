"""The QA report of a curation run."""
