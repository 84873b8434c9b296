"""The peer of `POST /api/v1/feedback`: FastAPI and asyncpg, with one INSERT for each request."""

import os
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI
from pydantic import BaseModel


class Interaction(BaseModel):
    user_id: str
    product_id: int
    interaction_type: str


@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=25, max_size=25) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/api/v1/feedback", status_code=202)
async def feedback(interaction: Interaction):
    insert = "INSERT INTO interactions (user_id, product_id, interaction_type) VALUES ($1, $2, $3) RETURNING id"
    values = interaction.user_id, interaction.product_id, interaction.interaction_type
    return {"position": await app.state.pool.fetchval(insert, *values)}


@app.get("/ready")
async def ready():
    return {}
