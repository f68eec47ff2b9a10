"""The orchestrator: manifest -> plan -> execution -> ledger -> tables -> report."""
