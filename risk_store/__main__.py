"""`python -m risk_store`: the same as the `risk-store` script."""

from risk_store.cli import main

if __name__ == "__main__":
    main()
