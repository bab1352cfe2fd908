"""From prompts to pictures, and what shows them: a grid and a page."""
