"""The survey of what services and datasets can do, and the plan of the steps to execute."""
