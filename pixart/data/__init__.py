"""Where training examples come from: sources, buckets, the plan and the data set."""
