/**
 * Names of this app's secrets, for completion and checking. Add yours by declaration merging:
 *
 *     declare module "tako.sh" {
 *       interface SecretNames { DATABASE_URL: string }
 *     }
 */
export interface SecretNames {}

/** The declared names, or any text while none are declared. */
export type SecretName = keyof SecretNames extends never ? string : Extract<keyof SecretNames, string>;

export interface Secrets {
  /** The value; throws an error that names the secret and the remedy when it is not set. */
  get(name: SecretName): string;
  has(name: SecretName): boolean;
  /** The names that Tako delivered, sorted; empty without Tako. */
  names(): string[];
  /** Never the values. */
  toJSON(): string;
  toString(): string;
}

export interface Env {
  /** `production`, `staging`, …; `development` outside of Tako. */
  readonly name: string;
  /** The deployed version. */
  readonly build: string | undefined;
  /** The folder that outlives a release. */
  readonly dataDir: string | undefined;
  has(name: string): boolean;
  /** The value, or `otherwise`; throws an error that names the variable when there is neither. */
  get(name: string, otherwise?: string): string;
}

export declare const secrets: Secrets;
export declare const env: Env;
/** Whether a Tako server, or `tako dev`, runs this process. */
export declare const isTako: boolean;
