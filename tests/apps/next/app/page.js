import { connection } from "next/server";
import Counter from "./counter";

const EDITION = "first edition";

export default async function Home() {
  // Rendered for each request, as what it says comes from the environment.
  await connection();
  return (
    <main>
      <p>{`${EDITION}, ${process.env.GREETING}`}</p>
      <Counter />
    </main>
  );
}
