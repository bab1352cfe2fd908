"""The objective: what is predicted at which time, what it costs, and how pictures are drawn from the prediction."""
