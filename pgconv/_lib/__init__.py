"""Native libraries, put here by the build."""
