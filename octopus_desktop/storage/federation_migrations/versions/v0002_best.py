"""The best round's model of a run; late answers and each silo's metrics of a round."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("best_round", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("best_value", sa.Float(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("best_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("best_size", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("rounds", sa.Column("late_json", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("rounds", sa.Column("silos_json", sa.Text(), nullable=False, server_default="{}"))
