"""All that both sides of a pqbench call share: blobs, errors, client, server, jobs, plug-in catalog."""
