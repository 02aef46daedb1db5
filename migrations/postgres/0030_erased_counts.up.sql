-- Whether the counts of the account are erased: that is done first, while few of its events have come since.
ALTER TABLE erasures ADD COLUMN counts_erased boolean NOT NULL DEFAULT false;
