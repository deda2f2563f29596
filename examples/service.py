"""A service in an asyncio program: thousands of requests at once change one state, and none is lost.

Starts an HTTP server (aiohttp) and its own 120 customers, who want the last 40 boxes of tea.

    python examples/service.py
"""

import asyncio
from dataclasses import dataclass, field

import httpx
from aiohttp import web

from theus import Engine, Overloaded, process


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)


class SoldOut(Exception):
    pass


@process
async def place(ctx, sku: str, customer: str):
    await asyncio.sleep(0.01)  # ask the payment service, once
    ctx.send(take, sku=sku, customer=customer)  # then a message to the state; if it raises, so does this call


@process(nature="state")  # short, never waits: runs in the sender's commit, on the newest state, so it never conflicts
def take(ctx, sku, customer):
    if ctx.domain.stock[sku] < 1:
        raise SoldOut(sku)
    ctx.domain.stock[sku] -= 1
    ctx.domain.orders.append(customer)


def make_app(engine: Engine) -> web.Application:
    async def order(request: web.Request) -> web.Response:
        body = await request.json()
        try:
            await engine.arun(place, **body)
        except SoldOut as error:
            return web.json_response({"sold out": str(error)}, status=409)
        except Overloaded as error:
            return web.json_response({"pending": error.pending}, status=503)
        return web.json_response({"customer": body["customer"]}, status=201)

    async def close(app: web.Application) -> None:
        await engine.aclose()  # runs in hand are cancelled; nothing is left half done

    app = web.Application()
    app.router.add_post("/orders", order)
    app.on_cleanup.append(close)
    return app


async def main() -> None:
    engine = Engine(Shop(stock={"tea": 40}), max_pending=1_000)
    runner = web.AppRunner(make_app(engine))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=60) as client:

        async def buy(number: int) -> int:
            answer = await client.post("/orders", json={"sku": "tea", "customer": f"customer {number}"})
            return answer.status_code

        codes = await asyncio.gather(*[buy(number) for number in range(120)])

    shop = engine.state
    print(f"{codes.count(201)} sold, {codes.count(409)} came too late, {shop.stock['tea']} left")
    assert len(set(shop.orders)) == codes.count(201) == 40
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
