"""Several runs of one small network, trained together: their parameters are the rows of one tensor."""
