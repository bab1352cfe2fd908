"""Speed and memory, side by side with the peers, on equal work in one process."""
